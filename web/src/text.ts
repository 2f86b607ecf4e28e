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
  ["1 … 4", "Go to a room"],
  ["Arrow keys", "Move in tables, tabs and pictures"],
  ["Enter", "Open the cell in focus"],
  ["Esc", "Close what is open"],
];
