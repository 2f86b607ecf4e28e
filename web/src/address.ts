// SPDX-License-Identifier: Apache-2.0
// The address holds what the page shows: "#/matrix?group=12ab&value=ssim". A link to it opens the
// same view in any browser that is signed in.
import { signal } from "@preact/signals";

export interface Address { room: string; params: Record<string, string> }

export function parse(hash: string): Address {
  const text = hash.replace(/^#\/?/, "");
  const mark = text.indexOf("?");
  const room = mark < 0 ? text : text.slice(0, mark);
  const params: Record<string, string> = {};
  if (mark >= 0) for (const [k, v] of new URLSearchParams(text.slice(mark + 1))) params[k] = v;
  return { room: /^[a-z]*$/.test(room) ? room : "", params };
}

export function format(address: Address): string {
  const params = new URLSearchParams();
  for (const key of Object.keys(address.params).sort()) {
    if (address.params[key] !== "") params.set(key, address.params[key]);
  }
  const query = params.toString();
  return `#/${address.room}${query ? "?" + query : ""}`;
}

export const address = signal<Address>(parse(typeof location === "undefined" ? "" : location.hash));

if (typeof window !== "undefined") {
  window.addEventListener("hashchange", () => {
    address.value = parse(location.hash);
  });
}

// Changes some parameters; "" removes one. `push`: the browser's Back returns to the view before.
export function setParams(patch: Record<string, string>, push = false): void {
  const next = { room: address.value.room, params: { ...address.value.params, ...patch } };
  const hash = format(next);
  if (hash === location.hash) return;
  if (push) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
  address.value = parse(hash);
}

export function param(name: string, otherwise = ""): string {
  return address.value.params[name] ?? otherwise;
}
