// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const salesTexts = texts(
  {
    title: 'Plans',
    hint: 'What you sell at which price. Who signed a version keeps it until you move them.',
    none: 'No plan yet',
    noneHint: 'Make a plan through the API; its prices and its subscribers show up here.',
    addOns: 'Extras',
    active: 'On sale',
    draft: 'Draft',
    archived: 'No longer sold',
    once: 'once',
    eachPeriod: 'in each period of the plan',
    every: (count: number, interval: string) =>
      count === 1 ? `per ${interval}` : `per ${count} ${interval}s`,
    version: (number: number) => `Version ${number}`,
    pricesOf: (plan: string, currency: string) => `Prices of ${plan} in ${currency}`,
    moveOf: (plan: string) => `Move the subscribers of ${plan}`,
    moved: 'The subscribers are being told.',
    moveTo: (plan: string, version: number, day: string) =>
      `To ${plan}, version ${version}, from ${day} on`,
    told: (moved: string, total: string) => `${moved} of ${total} are told.`,
    leftOut: (count: string) => `${count} stay where they are.`,
    progress: 'How far it is',
  },
  {
    title: 'Tarieven',
    hint: 'Wat u verkoopt tegen welke prijs. Wie een versie tekende houdt die tot u overzet.',
    none: 'Nog geen abonnement',
    noneHint: 'Maak een abonnement via de API; de prijzen en abonnees ervan staan dan hier.',
    addOns: "Extra's",
    active: 'In de verkoop',
    draft: 'Concept',
    archived: 'Niet meer te koop',
    once: 'eenmalig',
    eachPeriod: 'per periode van het abonnement',
    every: (count: number, interval: string) =>
      count === 1 ? `per ${interval}` : `per ${count} × ${interval}`,
    version: (number: number) => `Versie ${number}`,
    pricesOf: (plan: string, currency: string) => `Prijzen van ${plan} in ${currency}`,
    moveOf: (plan: string) => `Abonnees van ${plan} overzetten`,
    moved: 'De abonnees krijgen bericht.',
    moveTo: (plan: string, version: number, day: string) =>
      `Naar ${plan}, versie ${version}, vanaf ${day}`,
    told: (moved: string, total: string) => `${moved} van ${total} hebben bericht.`,
    leftOut: (count: string) => `${count} blijven waar ze zijn.`,
    progress: 'Hoe ver het is',
  },
);

export const moveTexts = texts(
  {
    hint: 'Each subscriber gets a mail now, and moves when the running period ends.',
    to: 'To',
    target: (plan: string, version: number) => `${plan}, version ${version}`,
    total: (count: string) => `Will move: ${count}.`,
    leftOut: (count: string) => `${count} stay: they have a contract or wait for a change.`,
    nobody: 'Nobody has to move: all have this version already.',
    preview: 'Who moves',
    signed: 'Signed',
    contract: 'A contract',
    version: (number: number) => `Version ${number}`,
    subscribers: 'Subscribers',
    feeNow: 'Fee now',
    feeThen: 'Fee then',
    notBefore: 'Not before',
    notBeforeHint: 'Empty: from the end of each running period.',
    reason: 'What you tell them',
    reasonHint: 'It stands in the mail.',
    action: 'Move them',
  },
  {
    hint: 'Iedere abonnee krijgt nu een mail en gaat over als de lopende periode eindigt.',
    to: 'Naar',
    target: (plan: string, version: number) => `${plan}, versie ${version}`,
    total: (count: string) => `Gaan over: ${count}.`,
    leftOut: (count: string) => `${count} blijven: met een contract of een eigen wijziging.`,
    nobody: 'Niemand hoeft over: iedereen heeft deze versie al.',
    preview: 'Wie overgaat',
    signed: 'Getekend',
    contract: 'Een contract',
    version: (number: number) => `Versie ${number}`,
    subscribers: 'Abonnees',
    feeNow: 'Bedrag nu',
    feeThen: 'Bedrag dan',
    notBefore: 'Niet voor',
    notBeforeHint: 'Leeg: vanaf het einde van elke lopende periode.',
    reason: 'Wat u hun vertelt',
    reasonHint: 'Het staat in de mail.',
    action: 'Overzetten',
  },
);

export const moveFieldTexts = texts(
  {
    'to_plan.other_periods': 'It is billed in other periods: nobody can be moved there.',
    'not_before.in_the_past': 'This day is over.',
  },
  {
    'to_plan.other_periods': 'Dit heeft andere perioden: niemand kan daarheen.',
    'not_before.in_the_past': 'Deze dag is voorbij.',
  },
);
