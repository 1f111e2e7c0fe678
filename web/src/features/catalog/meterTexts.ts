// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const productTexts = texts(
  {
    product: 'Product',
    none: 'No product yet',
    noneHint: 'Make a product through the API, and its meters and plans show up here.',
  },
  {
    product: 'Product',
    none: 'Nog geen product',
    noneHint: 'Maak een product via de API; de meters en abonnementen ervan staan dan hier.',
  },
);

export const meterTexts = texts(
  {
    title: 'Meters',
    hint: 'What your products count. Quotas and prices of your plans are about these.',
    none: 'Only calls are counted',
    noneHint: 'Add a meter to count something else: reports, gigabytes, tokens, users.',
    meter: 'Meter',
    kind: 'What it does',
    counts: 'What counts',
    source: 'Where it comes from',
    actions: 'Actions',
    per: (unit: string) => `in ${unit}`,
    everything: 'Everything',
    where: (property: string, values: string) => `${property} is ${values}`,
    plainSource: 'Calls, header or your reports',
    create: 'New meter',
    change: 'Change',
    changeOf: (name: string) => `Change ${name}`,
    save: 'Save',
    saved: (name: string) => `Saved: ${name}`,
    key: 'Key',
    keyHint: 'How programs name it: small letters, digits and _, such as storage_gb. It stays.',
    unit: 'Unit',
    unitHint: 'What one of it is called, such as GB, report or token.',
    stays: 'The kind of a meter stays as it is.',
    property: 'Property',
    propertyHint: 'Whose different values are counted, such as user_id.',
    sourcePath: 'Field of the answer',
    sourceHint:
      'Where JSON answers say the amount. Empty: by the header X-Nimbus-Usage, or your reports.',
    filters: 'Only some events',
    noFilters: 'Every event counts.',
    filtersHint:
      'What you report counts if each property has one of its values; calls always count.',
    filterProperty: 'Property',
    filterValues: 'Values, separated by commas',
    addFilter: 'Add a condition',
    remove: 'Remove',
    removeFilter: (property: string) => `Remove the condition ${property}`,
  },
  {
    title: 'Meters',
    hint: 'Wat uw producten tellen. Quota en prijzen van uw abonnementen gaan hierover.',
    none: 'Alleen aanroepen worden geteld',
    noneHint:
      'Voeg een meter toe om iets anders te tellen: rapporten, gigabytes, tokens, personen.',
    meter: 'Meter',
    kind: 'Wat hij doet',
    counts: 'Wat meetelt',
    source: 'Waar het vandaan komt',
    actions: 'Acties',
    per: (unit: string) => `in ${unit}`,
    everything: 'Alles',
    where: (property: string, values: string) => `${property} is ${values}`,
    plainSource: 'Aanroepen, header of uw meldingen',
    create: 'Nieuwe meter',
    change: 'Wijzigen',
    changeOf: (name: string) => `${name} wijzigen`,
    save: 'Opslaan',
    saved: (name: string) => `Opgeslagen: ${name}`,
    key: 'Sleutelwoord',
    keyHint:
      'Hoe programma’s hem noemen: kleine letters, cijfers en _, zoals storage_gb. Dit blijft zo.',
    unit: 'Eenheid',
    unitHint: 'Hoe één ervan heet, zoals GB, rapport of token.',
    stays: 'De soort van een meter blijft zoals hij is.',
    property: 'Eigenschap',
    propertyHint: 'Waarvan de verschillende waarden worden geteld, zoals user_id.',
    sourcePath: 'Veld van het antwoord',
    sourceHint:
      'Waar JSON-antwoorden de hoeveelheid noemen. Leeg: header X-Nimbus-Usage, of uw meldingen.',
    filters: 'Alleen sommige gebeurtenissen',
    noFilters: 'Elke gebeurtenis telt mee.',
    filtersHint:
      'Wat u meldt telt mee als elke eigenschap een van haar waarden heeft; aanroepen altijd.',
    filterProperty: 'Eigenschap',
    filterValues: 'Waarden, met komma’s ertussen',
    addFilter: 'Voorwaarde toevoegen',
    remove: 'Verwijderen',
    removeFilter: (property: string) => `Voorwaarde ${property} verwijderen`,
  },
);

export const kindTexts = texts(
  {
    count: 'Counts events',
    sum: 'Adds up',
    max: 'Keeps the highest',
    last: 'Keeps the last',
    unique: 'Counts different values',
    time_weighted: 'Amount times time',
  },
  {
    count: 'Telt gebeurtenissen',
    sum: 'Telt op',
    max: 'Houdt de hoogste',
    last: 'Houdt de laatste',
    unique: 'Telt verschillende waarden',
    time_weighted: 'Hoeveelheid maal tijd',
  },
);

export const kindHintTexts = texts(
  {
    count: 'Every event is one, whatever its value: three reports of any size are 3.',
    sum: 'The values of a period are added up: 200 and 300 tokens are 500.',
    max: 'The highest value of a period is billed: first 40, then 60, then 50 turbines are 60.',
    last: 'The last value of a period is billed: first 40, then 60, then 50 seats are 50.',
    unique: 'Each value counts once: two calls by Anna and one by Bram are 2 users.',
    time_weighted: 'How much there was, and for how long: 10 GB for half a month are 5 GB-months.',
  },
  {
    count: 'Elke gebeurtenis is er één, wat de waarde ook is: drie rapporten zijn er 3.',
    sum: 'De waarden van een periode worden opgeteld: 200 en 300 tokens zijn er 500.',
    max: 'De hoogste waarde van een periode telt: eerst 40, dan 60, dan 50 turbines zijn er 60.',
    last: 'De laatste waarde van een periode telt: eerst 40, dan 60, dan 50 plaatsen zijn er 50.',
    unique: 'Elke waarde telt één keer: twee aanroepen van Anna en één van Bram zijn 2 personen.',
    time_weighted: 'Hoeveel er was, en hoe lang: 10 GB een halve maand lang is 5 GB-maand.',
  },
);

export const meterFieldTexts = texts(
  {
    'key.taken': 'The product has a meter of this key.',
    'key.string_pattern_mismatch': 'Small letters, digits and _; it begins with a letter.',
    'property.missing': 'Say whose different values are counted.',
  },
  {
    'key.taken': 'Het product heeft al een meter met dit sleutelwoord.',
    'key.string_pattern_mismatch': 'Kleine letters, cijfers en _; met een letter vooraan.',
    'property.missing': 'Zeg van welke eigenschap de waarden worden geteld.',
  },
);
