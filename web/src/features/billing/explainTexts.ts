// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const explainTexts = texts(
  {
    why: 'Why this amount?',
    whyLine: (line: string) => `Why this amount? ${line}`,
    steps: 'The calculation',
    hours: 'What was used, by hour',
    events: 'Some of the calls',
    ledger: 'In the books',
    version: (plan: string, number: number, rules: number) =>
      `Priced by ${plan}, version ${number}; rules of calculation ${rules}.`,
    leftOut: (hours: number) => `And ${hours} more hours.`,
    tier: (number: string) => `Tier ${number}`,
    moved: (debit: string, credit: string) => `${debit}, from ${credit}`,
  },
  {
    why: 'Waarom dit bedrag?',
    whyLine: (line: string) => `Waarom dit bedrag? ${line}`,
    steps: 'De berekening',
    hours: 'Wat er is verbruikt, per uur',
    events: 'Enkele aanroepen',
    ledger: 'In de boeken',
    version: (plan: string, number: number, rules: number) =>
      `Prijs van ${plan}, versie ${number}; rekenregels ${rules}.`,
    leftOut: (hours: number) => `En nog ${hours} uren.`,
    tier: (number: string) => `Staffel ${number}`,
    moved: (debit: string, credit: string) => `${debit}, uit ${credit}`,
  },
);

export const stepTexts = texts(
  {
    used: 'Used',
    included: 'Included',
    billable: 'To be billed',
    unit_price: 'Unit price',
    packages: 'Packages',
    rate: 'Rate in percent',
    exact: 'Exact amount',
    billed_before: 'On earlier invoices',
    amount: 'Rounded, on this line',
    fee: 'Fee of a whole period',
    proration: 'Part of a period by',
    share: 'Share of the period',
    seconds: 'Seconds of the period',
    days: 'Days of the period',
    owed: 'Owed in all',
    asked_before: 'Asked before',
    minimum: 'Minimum',
    maximum: 'Maximum',
    bound: 'Its share',
    minimum_commitment: 'Agreed minimum',
    other_lines: 'The other lines',
  },
  {
    used: 'Verbruikt',
    included: 'Inbegrepen',
    billable: 'In rekening',
    unit_price: 'Prijs per stuk',
    packages: 'Pakketten',
    rate: 'Tarief in procenten',
    exact: 'Exact bedrag',
    billed_before: 'Op eerdere facturen',
    amount: 'Afgerond, op deze regel',
    fee: 'Bedrag per hele periode',
    proration: 'Deel van een periode per',
    share: 'Deel van de periode',
    seconds: 'Seconden van de periode',
    days: 'Dagen van de periode',
    owed: 'Samen verschuldigd',
    asked_before: 'Eerder gevraagd',
    minimum: 'Minimum',
    maximum: 'Maximum',
    bound: 'Het deel daarvan',
    minimum_commitment: 'Afgesproken minimum',
    other_lines: 'De andere regels',
  },
);

/** The accounts of the ledger. */
export const accountTexts = texts(
  {
    receivable: 'Owed by you',
    revenue: 'revenue',
    vat_payable: 'VAT',
    customer_balance: 'your balance',
    refunds: 'refunds',
    expired_credit: 'expired credit',
    write_offs: 'written off',
    cash: 'received',
  },
  {
    receivable: 'Door u verschuldigd',
    revenue: 'omzet',
    vat_payable: 'btw',
    customer_balance: 'uw saldo',
    refunds: 'terugbetalingen',
    expired_credit: 'verlopen tegoed',
    write_offs: 'afgeschreven',
    cash: 'ontvangen',
  },
);
