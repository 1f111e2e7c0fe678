// SPDX-License-Identifier: Apache-2.0
import createClient from 'openapi-fetch';
import { useSyncExternalStore } from 'react';
import { recall, remember } from '@/ui/storage';
import { showTimesIn } from '@/ui/zone';
import { Problem, unwrap } from './problem';
import type { components, paths } from './schema';

type Granted = components['schemas']['SignInView'];
export type Session = Omit<Granted, 'access_token' | 'expires_in'>;

// Says only that there may be a refresh cookie, so that a visitor's browser does not ask for
// nothing; and tells the other tabs about a sign-out.
const MARKER = 'nimbus.signed-in';
const EARLY_MS = 30_000;
const CSRF = { 'X-Nimbus-CSRF': '1' };

// The access token lives here and nowhere else: a script that got in later finds it in no storage.
let token: { value: string; until: number } | null = null;
let session: Session | null = null;
let restoring: Promise<void> | null = null;
const listeners = new Set<() => void>();

const anonymous = createClient<paths>();

/** Takes what a sign-in, a verification or a refresh answered. */
export function openSession({ access_token, expires_in, ...rest }: Granted): void {
  token = { value: access_token, until: Date.now() + expires_in * 1000 };
  session = rest;
  const current = rest.organizations.find((item) => item.id === rest.organization_id);
  showTimesIn(current?.time_zone);
  remember(MARKER, '1');
  tell();
}

/** Forgets the session in this tab and, by the marker, in all others. */
export function closeSession(): void {
  token = null;
  session = null;
  showTimesIn(undefined);
  remember(MARKER, null);
  tell();
}

/** A token that is good for at least half a minute, or null for a visitor. */
export async function accessToken(): Promise<string | null> {
  if (!token || token.until - Date.now() < EARLY_MS) await refresh();
  return token?.value ?? null;
}

/** The session, asked for anew by the cookie after a reload; null for a visitor; may throw. */
export async function restoreSession(): Promise<Session | null> {
  if (!session) await refresh();
  return session;
}

/** Swaps the refresh cookie for a new token and the present state of user and organizations. */
export function refresh(): Promise<void> {
  if (!recall(MARKER)) return Promise.resolve();
  restoring ??= oneTabAtATime(exchange).finally(() => {
    restoring = null;
  });
  return restoring;
}

async function exchange(): Promise<void> {
  try {
    openSession(await unwrap(anonymous.POST('/api/user/auth/refresh', { headers: CSRF })));
  } catch (error) {
    // Only a refusal ends the session; a part that is down for a moment does not.
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    closeSession();
  }
}

// A refresh cookie works once, and using it twice ends the whole family: two tabs must not use the
// same one. The lock exists in secure contexts, which is where the cookie exists.
async function oneTabAtATime(work: () => Promise<void>): Promise<void> {
  if (navigator.locks) await navigator.locks.request('nimbus-refresh', work);
  else await work();
}

/** Ends the session at the server as well; the tab forgets it whatever the server says. */
export async function signOut(): Promise<void> {
  const headers = { ...CSRF, ...(token && { Authorization: `Bearer ${token.value}` }) };
  try {
    await unwrap(anonymous.POST('/api/user/auth/logout', { headers }));
  } finally {
    closeSession();
  }
}

/** Acts for another of the user's organizations from now on. */
export async function switchOrganization(organizationId: string): Promise<void> {
  const body = { organization_id: organizationId };
  const headers = { Authorization: `Bearer ${await accessToken()}` };
  const granted = await unwrap(anonymous.POST('/api/organizations/switch', { body, headers }));
  if (session) openSession({ ...session, ...granted, organization_id: organizationId });
}

export function useSession(): Session | null {
  return useSyncExternalStore(subscribe, () => session);
}

/** Whether the role in the present organization has a permission; the API decides again. */
export function useMay(permission: string): boolean {
  const present = useSession();
  const current = present?.organizations.find((item) => item.id === present.organization_id);
  return current?.permissions.includes(permission) ?? false;
}

export function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(): void {
  for (const listener of listeners) listener();
}

addEventListener('storage', (event) => {
  if (event.key === MARKER && event.newValue === null && session) closeSession();
});
