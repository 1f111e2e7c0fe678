// SPDX-License-Identifier: Apache-2.0
import { createRoute } from '@tanstack/react-router';
import { RegisterForm } from '@/features/identity/RegisterForm';
import { needsVisitor } from './guards';
import { publicRoute } from './public';

export const registerRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/register',
  beforeLoad: needsVisitor,
  component: RegisterForm,
});
