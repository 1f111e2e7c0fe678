// SPDX-License-Identifier: Apache-2.0
import { texts } from '@/ui/i18n';

export const keyTexts = texts(
  {
    title: 'API keys',
    hint: 'A program calls the API with a key. Live calls are billed, test calls never are.',
    create: 'New key',
    none: 'No keys yet',
    noneHint: 'Make your first key, then send it with each call in the Authorization header.',
    name: 'Name',
    nameHint: 'Where is it used? For example “Production server”.',
    environment: 'Environment',
    scopes: 'Scopes',
    scopesHint: 'What the key may do. Give it no more than its program needs.',
    quota: 'Monthly quota',
    quotaHint: 'Units that its live calls may come to in a month. Empty: what the plan allows.',
    key: 'Key',
    status: 'Status',
    lastUsed: 'Last used',
    never: 'Never',
    created: 'Created',
    actions: 'Actions',
    test: 'Test',
    live: 'Live',
    createTitle: 'New API key',
    createAction: 'Create key',
    secretTitle: 'Your new key',
    secretWarning:
      'Copy it now: this is the only time we show it. Keep it where your program can read it and others cannot.',
    secretLabel: 'API key',
    secretDone: 'I have saved it',
    existing: 'This key was made before. Its secret cannot be shown again.',
    revoke: 'Revoke',
    revokeName: (name: string) => `Revoke ${name}`,
    revokeTitle: (name: string) => `Revoke “${name}”?`,
    revokeHint: 'Programs that use this key are refused within a second. This cannot be undone.',
    revokeAction: 'Revoke the key',
    revoked: (name: string) => `${name} is revoked.`,
  },
  {
    title: 'API-sleutels',
    hint: 'Een programma gebruikt een sleutel om de API aan te roepen. Live wordt gefactureerd, test nooit.',
    create: 'Nieuwe sleutel',
    none: 'Nog geen sleutels',
    noneHint:
      'Maak uw eerste sleutel en stuur die bij elke aanroep mee in de Authorization-header.',
    name: 'Naam',
    nameHint: 'Waar wordt hij gebruikt? Bijvoorbeeld “Productieserver”.',
    environment: 'Omgeving',
    scopes: 'Rechten',
    scopesHint: 'Wat de sleutel mag. Geef niet meer dan het programma nodig heeft.',
    quota: 'Maandquotum',
    quotaHint: 'Eenheden voor zijn live-aanroepen per maand. Leeg: wat het abonnement toelaat.',
    key: 'Sleutel',
    status: 'Status',
    lastUsed: 'Laatst gebruikt',
    never: 'Nooit',
    created: 'Aangemaakt',
    actions: 'Acties',
    test: 'Test',
    live: 'Live',
    createTitle: 'Nieuwe API-sleutel',
    createAction: 'Sleutel maken',
    secretTitle: 'Uw nieuwe sleutel',
    secretWarning:
      'Kopieer hem nu: we tonen hem maar één keer. Bewaar hem waar uw programma erbij kan en anderen niet.',
    secretLabel: 'API-sleutel',
    secretDone: 'Ik heb hem bewaard',
    existing: 'Deze sleutel bestond al. Het geheim kan niet nog eens worden getoond.',
    revoke: 'Intrekken',
    revokeName: (name: string) => `${name} intrekken`,
    revokeTitle: (name: string) => `“${name}” intrekken?`,
    revokeHint:
      'Programma’s met deze sleutel worden binnen een seconde geweigerd. Dit kan niet ongedaan worden gemaakt.',
    revokeAction: 'Sleutel intrekken',
    revoked: (name: string) => `${name} is ingetrokken.`,
  },
);

export const keyStatusTexts = texts(
  { Active: 'Active', Revoked: 'Revoked', Expired: 'Expired' },
  { Active: 'Actief', Revoked: 'Ingetrokken', Expired: 'Verlopen' },
);

/** Refused fields in the reader's language, by field and code; others are shown as they came. */
export const keyFieldTexts = texts(
  { 'name.string_pattern_mismatch': 'Use letters, digits, spaces and - _ . only.' },
  { 'name.string_pattern_mismatch': 'Gebruik alleen letters, cijfers, spaties en - _ .' },
);
