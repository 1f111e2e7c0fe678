// SPDX-License-Identifier: Apache-2.0
import { createRoute } from '@tanstack/react-router';
import { ResetPasswordForm } from '@/features/identity/ResetPasswordForm';
import { publicRoute } from './public';

export const resetPasswordRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/reset-password',
  validateSearch: (search) => ({ token: String(search.token ?? '') }),
  component: ResetPasswordPage,
});

function ResetPasswordPage() {
  return <ResetPasswordForm token={resetPasswordRoute.useSearch().token} />;
}
