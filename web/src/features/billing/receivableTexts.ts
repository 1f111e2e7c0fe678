// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const receivableTexts = texts(
  {
    title: 'Invoices sent',
    hint: 'What everybody was billed, what is due, and what waits for a person to look at it.',
    none: 'No invoices yet',
    noneHint: 'The first one is made at the end of the first billing period.',
    organization: 'Organization',
    too_many_lines: 'Held: too many lines',
    negative_total: 'Held: a total below zero',
    far_above_usual: 'Held: far above the usual',
    of: (action: string, name: string) => `${action}: ${name}`,
    pay: 'Mark paid',
    payHint: 'Say so when the money came in: the customer sees the invoice as paid.',
    writeOff: 'Write off',
    writeOffHint:
      'You give up what is due. The invoice stays as it was sent, with its VAT; to take it back, make a credit note instead.',
    send: 'Send',
    sendHint: 'It gets its number and is sent. After that it can only be credited.',
    reference: 'Reference of the payment',
    reason: 'Reason',
    done: 'done',
  },
  {
    title: 'Verzonden facturen',
    hint: 'Wat aan iedereen is berekend, wat openstaat, en waar iemand naar moet kijken.',
    none: 'Nog geen facturen',
    noneHint: 'De eerste komt aan het einde van de eerste factuurperiode.',
    organization: 'Organisatie',
    too_many_lines: 'Vastgehouden: te veel regels',
    negative_total: 'Vastgehouden: een totaal onder nul',
    far_above_usual: 'Vastgehouden: ver boven het gewone',
    of: (action: string, name: string) => `${action}: ${name}`,
    pay: 'Is betaald',
    payHint: 'Zeg het als het geld binnen is: de klant ziet de factuur dan als betaald.',
    writeOff: 'Afschrijven',
    writeOffHint:
      'U geeft op wat openstaat. De factuur blijft zoals ze verzonden is, met btw; maak een creditnota om haar terug te nemen.',
    send: 'Verzenden',
    sendHint: 'Ze krijgt haar nummer en wordt verzonden. Daarna kan ze alleen worden gecrediteerd.',
    reference: 'Kenmerk van de betaling',
    reason: 'Reden',
    done: 'gedaan',
  },
);
