// SPDX-License-Identifier: Apache-2.0
import type { Locale } from './i18n';
import { inZone, lastDay } from './zone.ts';

export type Money = { amount_minor: number; currency: string };

const TAGS: Record<Locale, string> = { en: 'en-GB', nl: 'nl-NL' };

/** Shows an amount as the API gave it. Only digits move: there is no arithmetic on money here. */
export function formatMoney(money: Money, locale: Locale): string {
  const format = new Intl.NumberFormat(TAGS[locale], {
    style: 'currency',
    currency: money.currency,
  });
  const places = format.resolvedOptions().maximumFractionDigits ?? 0;
  return format.format(placePoint(money.amount_minor, places));
}

function placePoint(minor: number, places: number): `${number}` {
  const sign = minor < 0 ? '-' : '';
  const digits = String(Math.abs(minor)).padStart(places + 1, '0');
  const whole = digits.slice(0, digits.length - places);
  const rest = digits.slice(digits.length - places);
  return `${sign}${whole}.${rest || '0'}` as `${number}`;
}

/** A unit price as the API gave it (a decimal string): at least two places, none lost. */
export function formatUnitPrice(decimal: string, currency: string, locale: Locale): string {
  return new Intl.NumberFormat(TAGS[locale], {
    style: 'currency',
    currency,
    minimumFractionDigits: 2,
    maximumFractionDigits: 12,
  }).format(decimal as `${number}`);
}

export function formatNumber(value: number | string, locale: Locale): string {
  return new Intl.NumberFormat(TAGS[locale]).format(value as number | `${number}`);
}

/** A calendar date `YYYY-MM-DD` has no zone; an instant is shown in the organization's. */
export function formatDate(value: string, locale: Locale): string {
  const zone = value.length === 10 ? { timeZone: 'UTC' } : inZone();
  return new Intl.DateTimeFormat(TAGS[locale], { dateStyle: 'medium', ...zone }).format(
    new Date(value),
  );
}

/** A period by its first and its last day. */
export function formatPeriod(from: string, to: string, locale: Locale): string {
  return `${formatDate(from, locale)} – ${formatDate(lastDay(to), locale)}`;
}

export function formatInstant(value: string, locale: Locale): string {
  return new Intl.DateTimeFormat(TAGS[locale], {
    dateStyle: 'medium',
    timeStyle: 'short',
    ...inZone(),
  }).format(new Date(value));
}

/** An instant to the second, as a log shows it. */
export function formatSecond(value: string, locale: Locale): string {
  return new Intl.DateTimeFormat(TAGS[locale], {
    dateStyle: 'medium',
    timeStyle: 'medium',
    ...inZone(),
  }).format(new Date(value));
}

export function countryName(code: string, locale: Locale): string {
  return new Intl.DisplayNames(TAGS[locale], { type: 'region' }).of(code) ?? code;
}
