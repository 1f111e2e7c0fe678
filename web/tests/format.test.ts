// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatMoney, formatUnitPrice } from '../src/ui/format.ts';

// Intl puts no-break spaces; a test reads better without.
const plain = (text: string) => text.replaceAll(/\s/g, ' ');
const money = (amount_minor: number, currency = 'EUR') => ({ amount_minor, currency });

test('an amount shows the digits that the API gave, in the language of the reader', () => {
  assert.equal(plain(formatMoney(money(14097), 'en')), '€140.97');
  assert.equal(plain(formatMoney(money(14097), 'nl')), '€ 140,97');
  assert.equal(plain(formatMoney(money(123456789), 'nl')), '€ 1.234.567,89');
});

test('small, negative and zero amounts keep their places', () => {
  assert.equal(formatMoney(money(5), 'en'), '€0.05');
  assert.equal(formatMoney(money(0), 'en'), '€0.00');
  assert.equal(formatMoney(money(-5), 'en'), '-€0.05');
});

test('a currency without minor units and one with three keep theirs', () => {
  assert.equal(formatMoney(money(1500, 'JPY'), 'en'), 'JP¥1,500');
  assert.equal(plain(formatMoney(money(1500, 'BHD'), 'en')), 'BHD 1.500');
});

test('the largest amount that JSON carries exactly is shown exactly', () => {
  assert.equal(formatMoney(money(Number.MAX_SAFE_INTEGER), 'en'), '€90,071,992,547,409.91');
});

test('a unit price loses no place and has at least two', () => {
  assert.equal(formatUnitPrice('0.002', 'EUR', 'en'), '€0.002');
  assert.equal(formatUnitPrice('0.000000000001', 'EUR', 'en'), '€0.000000000001');
  assert.equal(formatUnitPrice('1.5', 'EUR', 'en'), '€1.50');
});
