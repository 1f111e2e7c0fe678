// SPDX-License-Identifier: Apache-2.0
import { redirect } from '@tanstack/react-router';
import { restoreSession, type Session } from '@/api/session';

/** Lets members in; a visitor signs in first and then comes back. */
export async function needsSession(href: string): Promise<Session> {
  const session = await restoreSession();
  if (session) return session;
  throw redirect({ to: '/sign-in', search: href === '/' ? {} : { from: href } });
}

/** Lets visitors in; who is signed in already goes to the start page. */
export async function needsVisitor(): Promise<void> {
  // While the API does not answer, the form at least stands there.
  const session = await restoreSession().catch(() => null);
  if (session) throw redirect({ to: '/' });
}

/** Whether the organization of this session still has steps of the set-up before it. */
export function isBeingSetUp({ organizations, organization_id }: Session): boolean {
  const current = organizations.find((item) => item.id === organization_id);
  return !current || current.status === 'Pending';
}
