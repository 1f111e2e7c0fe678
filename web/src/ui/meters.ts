// SPDX-License-Identifier: Apache-2.0
import { type Locale, texts } from './i18n';

// The meters that ship with Nimbus.
const known = texts(
  {
    api_calls: 'API calls',
    assets: 'assets',
    reports: 'PDF reports',
    storage_gb: 'GB of storage',
    tokens: 'tokens',
  },
  {
    api_calls: 'API-aanroepen',
    assets: 'assets',
    reports: 'PDF-rapporten',
    storage_gb: 'GB opslag',
    tokens: 'tokens',
  },
);

/** A meter as people say it; a provider's own by its key: `map_tiles` is "map tiles". */
export function meterName(key: string, locale: Locale): string {
  const names: Record<string, string> = known[locale];
  return names[key] ?? key.replaceAll('_', ' ');
}

/** The same where a line begins. */
export function meterTitle(key: string, locale: Locale): string {
  const name = meterName(key, locale);
  return name.charAt(0).toLocaleUpperCase(locale) + name.slice(1);
}

/** How often a quota begins anew. */
export const periodTexts = texts(
  {
    day: 'per day',
    week: 'per week',
    month: 'per month',
    year: 'per year',
    cycle: 'per billing period',
  },
  {
    day: 'per dag',
    week: 'per week',
    month: 'per maand',
    year: 'per jaar',
    cycle: 'per factuurperiode',
  },
);

export type QuotaPeriod = keyof (typeof periodTexts)['en'];
