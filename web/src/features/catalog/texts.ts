// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const planTexts = texts(
  {
    title: 'Choose a plan',
    hint: 'You can change it later. Prices are without VAT.',
    plans: 'Plans',
    included: (amount: string, meter: string) => `${amount} ${meter} included`,
    beyond: (price: string) => `then ${price} each`,
    each: (meter: string, price: string) => `${meter}: ${price} each`,
    rate: (amount: string, period: string) => `Up to ${amount} calls a ${period}`,
    invoice: (days: number) => `You pay on invoice at the end of each period, within ${days} days.`,
    none: 'No plans on offer yet',
    noneHint: 'The operator of this Nimbus has not published a plan. You can go on without one.',
    later: 'Decide later',
  },
  {
    title: 'Kies een abonnement',
    hint: 'U kunt later wisselen. Prijzen zijn zonder btw.',
    plans: 'Abonnementen',
    included: (amount: string, meter: string) => `${amount} ${meter} inbegrepen`,
    beyond: (price: string) => `daarna ${price} per stuk`,
    each: (meter: string, price: string) => `${meter}: ${price} per stuk`,
    rate: (amount: string, period: string) => `Tot ${amount} aanroepen per ${period}`,
    invoice: (days: number) =>
      `U betaalt op factuur aan het einde van elke periode, binnen ${days} dagen.`,
    none: 'Nog geen abonnementen',
    noneHint: 'De beheerder van deze Nimbus heeft nog niets gepubliceerd. U kunt zonder verder.',
    later: 'Later beslissen',
  },
);

export const intervalTexts = texts(
  {
    day: 'day',
    week: 'week',
    month: 'month',
    quarter: 'quarter',
    year: 'year',
    second: 'second',
    minute: 'minute',
    hour: 'hour',
  },
  {
    day: 'dag',
    week: 'week',
    month: 'maand',
    quarter: 'kwartaal',
    year: 'jaar',
    second: 'seconde',
    minute: 'minuut',
    hour: 'uur',
  },
);
