// SPDX-License-Identifier: Apache-2.0
import { texts } from './i18n';

/** What any refusal looks like from here; `api/problem.ts` makes them. */
export type Refused = Error & { code?: string; requestId?: string | null };

export const problemTexts = texts(
  {
    network: 'Nimbus did not answer. Check your connection and try again.',
    unavailable: 'This part of Nimbus is not available for the moment. Try again in a minute.',
    rateLimited: 'That was too often in a short time. Wait a minute and try again.',
    forbidden: 'Your role does not allow this. Ask an owner of your organization.',
    stale: 'Someone else changed this meanwhile. Reload the page and try again.',
    unknown: 'Something went wrong on our side. Try again; if it stays, tell us the number below.',
    reference: (id: string) => `Reference: ${id}`,
  },
  {
    network: 'Nimbus gaf geen antwoord. Controleer uw verbinding en probeer het opnieuw.',
    unavailable: 'Dit deel van Nimbus is even niet beschikbaar. Probeer het over een minuut weer.',
    rateLimited: 'Dat was te vaak in korte tijd. Wacht een minuut en probeer het opnieuw.',
    forbidden: 'Uw rol staat dit niet toe. Vraag het een eigenaar van uw organisatie.',
    stale: 'Iemand anders heeft dit intussen gewijzigd. Herlaad de pagina en probeer het opnieuw.',
    unknown: 'Er ging bij ons iets mis. Probeer het opnieuw; blijft het, noem ons dan dit nummer.',
    reference: (id: string) => `Kenmerk: ${id}`,
  },
);

type ProblemTexts = (typeof problemTexts)['en'];

const BY_CODE: Record<string, keyof Omit<ProblemTexts, 'reference'>> = {
  network: 'network',
  unavailable: 'unavailable',
  rate_limited: 'rateLimited',
  forbidden: 'forbidden',
  stale_version: 'stale',
  internal: 'unknown',
  unknown: 'unknown',
};

/** A sentence in the reader's language where we have one, else the API's own. */
export function describe(error: Refused, own: ProblemTexts): string {
  if (!error.code) return own.unknown;
  const name = BY_CODE[error.code];
  return name ? own[name] : error.message;
}
