// SPDX-License-Identifier: Apache-2.0
import { texts } from './i18n';

/** What happens over a quota, and what its limit is made of. */
export const quotaTexts = texts(
  {
    used: (used: string, limit: string) => `${used} of ${limit} used`,
    left: (remaining: string, limit: string) => `${remaining} of ${limit} left`,
    noLimit: (used: string) => `${used} used, without a limit`,
    resets: (date: string) => `counted anew on ${date}`,
    deny: 'Over the quota, calls are refused until it begins anew.',
    warn: 'Over the quota, calls go on; you are told.',
    allow: 'Over the quota, calls go on.',
    overage: 'Over the quota, calls go on and are billed.',
    capped: (units: string) => `Over the quota, up to ${units} more are served and billed.`,
    rolled: (units: string) => `${units} came along from earlier periods.`,
    increased: (units: string, date: string) => `${units} were added until ${date}.`,
    before: (units: string) => `${units} were used in this period before the plan changed.`,
    thresholds: (list: string) => `You get a mail at ${list}.`,
    reached: (list: string) => `Reached: ${list}.`,
  },
  {
    used: (used: string, limit: string) => `${used} van ${limit} verbruikt`,
    left: (remaining: string, limit: string) => `nog ${remaining} van ${limit}`,
    noLimit: (used: string) => `${used} verbruikt, zonder grens`,
    resets: (date: string) => `begint opnieuw op ${date}`,
    deny: 'Boven het quotum worden aanroepen geweigerd tot het opnieuw begint.',
    warn: 'Boven het quotum gaan aanroepen door; u krijgt bericht.',
    allow: 'Boven het quotum gaan aanroepen door.',
    overage: 'Boven het quotum gaan aanroepen door en worden ze berekend.',
    capped: (units: string) => `Boven het quotum worden er nog ${units} geleverd en berekend.`,
    rolled: (units: string) => `${units} kwamen mee uit eerdere perioden.`,
    increased: (units: string, date: string) => `${units} zijn toegevoegd tot ${date}.`,
    before: (units: string) => `${units} zijn in deze periode verbruikt vóór de overstap.`,
    thresholds: (list: string) => `U krijgt een mail bij ${list}.`,
    reached: (list: string) => `Bereikt: ${list}.`,
  },
);
