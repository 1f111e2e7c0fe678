// SPDX-License-Identifier: Apache-2.0
import { createRoute, useNavigate } from '@tanstack/react-router';
import { useCallback } from 'react';
import { VerifyEmail } from '@/features/identity/VerifyEmail';
import { publicRoute } from './public';

export const verifyEmailRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/verify-email',
  validateSearch: (search) => ({ token: String(search.token ?? '') }),
  component: VerifyEmailPage,
});

function VerifyEmailPage() {
  const { token } = verifyEmailRoute.useSearch();
  const navigate = useNavigate();
  // The used link leaves the history.
  const go = useCallback(() => navigate({ to: '/', replace: true }), [navigate]);
  return <VerifyEmail token={token} onDone={go} />;
}
