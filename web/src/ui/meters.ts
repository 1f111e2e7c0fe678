// SPDX-License-Identifier: Apache-2.0
import { type Locale, texts } from './i18n';

// The one meter that every product has; a provider's own are called by their key.
const callTexts = texts({ api_calls: 'API calls' }, { api_calls: 'API-aanroepen' });

/** A meter as people say it: `api_calls` is "API calls", `storage_gb` is "storage gb". */
export function meterName(key: string, locale: Locale): string {
  return key === 'api_calls' ? callTexts[locale].api_calls : key.replaceAll('_', ' ');
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
