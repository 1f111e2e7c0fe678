// SPDX-License-Identifier: Apache-2.0
import { formatNumber } from './format';
import type { Locale } from './i18n';

/** Milliseconds as people read them: 0.9 ms, 12 ms, 1.5 s. */
export function formatDuration(milliseconds: number, locale: Locale): string {
  if (milliseconds >= 1000) return `${formatNumber(rounded(milliseconds / 1000, 1), locale)} s`;
  return `${formatNumber(rounded(milliseconds, milliseconds < 10 ? 1 : 0), locale)} ms`;
}

/** A number of bytes in the unit that keeps it short: 512 B, 1.4 MB. */
export function formatBytes(bytes: number, locale: Locale): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${formatNumber(rounded(value, value < 10 && unit > 0 ? 1 : 0), locale)} ${units[unit]}`;
}

function rounded(value: number, places: number): number {
  return Number(value.toFixed(places));
}
