// SPDX-License-Identifier: Apache-2.0

const DAY_MS = 86_400_000;

// Everything is shown in the organization's time zone, as on its invoices, wherever one reads it.
let zone: string | undefined;

/** The zone to show instants in from now on; undefined is the browser's own. */
export function showTimesIn(timeZone: string | undefined): void {
  zone = timeZone;
}

/** What `Intl` formats instants with. */
export function inZone(): { timeZone?: string } {
  return zone ? { timeZone: zone } : {};
}

/** The day of the calendar on which an instant falls, as `YYYY-MM-DD`. */
export function dayOf(instant: string): string {
  // Sweden writes its dates so.
  return new Intl.DateTimeFormat('sv-SE', { dateStyle: 'short', ...inZone() }).format(
    new Date(instant),
  );
}

/** The instant at which a day of the calendar begins. */
export function startOf(day: string): string {
  const midnight = Date.parse(`${day}T00:00:00Z`);
  // The offset is that of the day itself, except where the clocks change between the two.
  const first = midnight - offsetAt(midnight);
  return new Date(midnight - offsetAt(first)).toISOString();
}

/** The last day of a period that ends at this instant, and does not hold it. */
export function lastDay(end: string): string {
  return dayOf(new Date(Date.parse(end) - 1).toISOString());
}

export function dayAfter(day: string, days = 1): string {
  return new Date(Date.parse(`${day}T00:00:00Z`) + days * DAY_MS).toISOString().slice(0, 10);
}

function offsetAt(instant: number): number {
  const local = new Intl.DateTimeFormat('sv-SE', {
    dateStyle: 'short',
    timeStyle: 'medium',
    ...inZone(),
  }).format(instant);
  return Date.parse(`${local.replace(' ', 'T')}Z`) - Math.floor(instant / 1000) * 1000;
}
