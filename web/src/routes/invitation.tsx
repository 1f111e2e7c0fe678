// SPDX-License-Identifier: Apache-2.0
import { createRoute, useNavigate } from '@tanstack/react-router';
import { AcceptInvitation } from '@/features/identity/AcceptInvitation';
import { needsSession } from './guards';
import { publicRoute } from './public';

export const invitationRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/invitation',
  validateSearch: (search) => ({ token: String(search.token ?? '') }),
  beforeLoad: async ({ location }) => {
    await needsSession(location.href);
  },
  component: InvitationPage,
});

function InvitationPage() {
  const { token } = invitationRoute.useSearch();
  const navigate = useNavigate();
  return <AcceptInvitation token={token} onDone={() => navigate({ to: '/', replace: true })} />;
}
