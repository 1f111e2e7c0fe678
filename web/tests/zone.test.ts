// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatDate, formatPeriod } from '../src/ui/format.ts';
import { dayOf, lastDay, showTimesIn, startOf } from '../src/ui/zone.ts';

test('a period is shown by its first and its last day in the zone of the organization', () => {
  showTimesIn('Europe/Amsterdam');
  const shown = formatPeriod('2026-10-16T22:00:00Z', '2026-11-16T23:00:00Z', 'en');
  assert.equal(shown, '17 Oct 2026 – 16 Nov 2026');
  assert.equal(formatDate('2026-11-16T23:00:00Z', 'en'), '17 Nov 2026');
  assert.equal(dayOf('2026-11-16T23:00:00Z'), '2026-11-17');
  assert.equal(lastDay('2026-11-16T23:00:00Z'), '2026-11-16');
});

test('a day begins at midnight of its zone, where the clocks change as well', () => {
  const starts: [string, string, string][] = [
    ['UTC', '2026-05-01', '2026-05-01T00:00:00.000Z'],
    ['Europe/Amsterdam', '2026-03-29', '2026-03-28T23:00:00.000Z'],
    ['Europe/Amsterdam', '2026-03-30', '2026-03-29T22:00:00.000Z'],
    ['Europe/Amsterdam', '2026-10-26', '2026-10-25T23:00:00.000Z'],
    ['America/New_York', '2026-11-01', '2026-11-01T04:00:00.000Z'],
    ['Asia/Kolkata', '2026-05-01', '2026-04-30T18:30:00.000Z'],
    ['Pacific/Auckland', '2026-04-05', '2026-04-04T11:00:00.000Z'],
  ];
  for (const [zone, day, instant] of starts) {
    showTimesIn(zone);
    assert.equal(startOf(day), instant, `${zone} ${day}`);
    assert.equal(dayOf(instant), day);
  }
  showTimesIn(undefined);
});
