// SPDX-License-Identifier: Apache-2.0
// Colours of the heat map: one hue, even steps of lightness in OKLab, so that they keep their order
// for colour-blind people and in print.

type Lab = [number, number, number];

function lch(l: number, c: number, degrees: number): Lab {
  const h = (degrees * Math.PI) / 180;
  return [l, c * Math.cos(h), c * Math.sin(h)];
}

function toRgb([L, a, b]: Lab): [number, number, number] {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((v) => {
    const x = Math.min(1, Math.max(0, v));
    return Math.round(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055));
  }) as [number, number, number];
}

const scales = {
  light: [lch(0.975, 0.012, 240), lch(0.72, 0.105, 248), lch(0.4, 0.125, 262)],
  dark: [lch(0.29, 0.03, 255), lch(0.53, 0.12, 255), lch(0.86, 0.085, 240)],
};

export interface Fill { background: string; text: string }

function luminance(rgb: [number, number, number]): number {
  const [r, g, b] = rgb.map((v) => {
    const x = v / 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// `share` 0..1: how much of the scale.
export function fill(share: number, dark: boolean): Fill {
  const stops = scales[dark ? "dark" : "light"];
  const x = Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(x));
  const t = x - i;
  const mixed = stops[i].map((v, k) => v + t * (stops[i + 1][k] - v)) as Lab;
  const rgb = toRgb(mixed);
  const l = luminance(rgb);
  // Whichever of black and white has more contrast.
  const text = (l + 0.05) / 0.05 > 1.05 / (l + 0.05) ? "#0b0d10" : "#ffffff";
  return { background: `rgb(${rgb.join(",")})`, text };
}

export function contrast(a: [number, number, number], b: [number, number, number]): number {
  const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
}
