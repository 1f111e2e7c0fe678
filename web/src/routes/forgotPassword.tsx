// SPDX-License-Identifier: Apache-2.0
import { createRoute } from '@tanstack/react-router';
import { ForgotPasswordForm } from '@/features/identity/ForgotPasswordForm';
import { publicRoute } from './public';

export const forgotPasswordRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/forgot-password',
  component: ForgotPasswordForm,
});
