// SPDX-License-Identifier: Apache-2.0
// What the pages say, in one place.

export const levels: { name: string; meaning: string }[] = [
  { name: "blind", meaning: "Sees nothing that was sent: guesses the average image, the class mean or a public image. Every other attack has to beat it." },
  { name: "query-free", meaning: "Holds the cloud's networks and what was sent, and cannot ask the edge anything. The source's attacker." },
  { name: "known pairs", meaning: "Also knows some images and what was sent for them." },
  { name: "repeated sends", meaning: "Sees the same image sent several times, with fresh noise each time." },
  { name: "black box", meaning: "May send images of its own choice through the edge and see what comes out." },
  { name: "white box", meaning: "Knows the edge's network. The upper end: what the features hold at all." },
];

// The ladder of disguised training.
export const ladder: Record<string, string> = {
  L0: "sees the disguised set, its labels and the queries, and nothing else",
  L1: "also has public images like the private ones",
  L1x: "also has the private images themselves, and must find out which is which",
  L2: "also knows some images and what they became",
  oracle: "knows as many such pairs as it likes: the upper bound",
};

// What the source (CCS 2023, figure 4) calls an attack.
export const sourceNames: Record<string, string> = {
  look: "visual re-identification", regression: "regression", procrustes: "regression, for rotations", codebook: "codebook",
};

// What to try first against a method.
export const firstAttack: Record<string, string> = { rmt: "moments", aes: "codebook", identity: "look", noise: "look", dp: "look", aesctr: "regression" };

export const disguiseText = {
  unitOff: "RMT multiplies blocks by a matrix: nothing is encrypted, so there is no unit.",
  rmtOff: "AES encrypts units of pixels: block, noise and permutation belong to RMT.",
  broken: "Every method here is broken at some level of knowledge; this room shows by how much. Only AES-CTR hides everything, from the cloud's training too.",
  key: "The key is made here, from the operating system's random source, and never leaves this program: no page, no answer and no upload holds it.",
};

export const methods: { name: string; what: string; room: string; link: string }[] = [
  {
    name: "Split inference with a secret selection",
    what: "The edge computes the first cells, adds noise and sends the features to N server networks. It reads P of their answers, and only it knows which.",
    room: "split", link: "Send a picture through it",
  },
  {
    name: "Noise, dropout, penalties, adversaries",
    what: "Shredder, NoPeek, ResSFL, dropout, channels of limited power and more: each trained and attacked under the same rules.",
    room: "matrix", link: "Compare them in the matrix",
  },
  {
    name: "Training on disguised pictures",
    what: "An owner disguises her pictures under a secret key and lets a cloud train on what comes out. See what the cloud sees, and what attackers rebuild.",
    room: "disguise", link: "Disguise a picture",
  },
  {
    name: "Training on a rented machine",
    what: "A network that is trained here and now, with its curves, its command and everything that its cloud gets to see.",
    room: "cloud", link: "Watch a training",
  },
];

export const strengthHelp =
  "An attack counts when it rebuilds at least 80 % of what a decoder on true features rebuilds from an unprotected network. Hatched cells do not: a low number there says nothing about the protection.";

export const valueHelp: Record<string, string> = {
  ssim: "Structural similarity of reconstruction and original, 0 to 1, mean over the scored images. Higher: more leaks.",
  best_ssim: "The better of the reconstruction and its negative: what a person would recognise.",
  psnr: "Peak signal-to-noise ratio of the reconstruction, in decibel. Higher: more leaks.",
  own_pick: "SSIM of the candidate that the attacker would choose without seeing the original.",
  of_oracle: "SSIM as a share of what a decoder on true features reaches on the same network.",
  recognised: "Share of reconstructions whose class a reference classifier recognises.",
  reidentified: "Rank-1: share of reconstructions that lead back to their original among all scored images.",
};

export const keys: [string, string][] = [
  ["?", "These keys"],
  ["1 … 5", "Go to a room"],
  ["← →", "Disguise: the picture before or after"],
  ["Arrow keys", "Move in tables, tabs and pictures"],
  ["Enter", "Open the cell in focus"],
  ["Esc", "Close what is open"],
];

// The tour: six steps, each in a room and beside what it speaks of.
export const tour: { room: string; at: string; title: string; text: string }[] = [
  { room: "", at: ".parties, .start h1", title: "The problem", text: "A cloud computes for you, and whatever you send it may be turned back into your pictures. Everything here measures how far." },
  { room: "disguise", at: ".panes", title: "A disguised picture", text: "Left your picture, in the middle what a cloud would train on. Move the pointer over one of them: all are enlarged." },
  { room: "disguise", at: ".attack-pick", title: "An attack", text: "Choose what the attacker knows and press Attack! The picture that it rebuilds appears on the right, with the share of originals that it finds." },
  { room: "cloud", at: ".trainings, .empty, .content", title: "A training", text: "The cloud's side: what was uploaded, and how well a network learns from it, beside the same on plain pictures." },
  { room: "split", at: ".way, .empty, .content", title: "Split inference", text: "The other way to use a cloud: only features leave. Drag h and t to see what each split would send, and leak." },
  { room: "matrix", at: ".heat, .empty, .content", title: "What was measured", text: "Every protection against every attack. Open a cell for its pictures, its interval and the command that measures it again." },
];
