// SPDX-License-Identifier: Apache-2.0
import { createRoute, useRouter } from '@tanstack/react-router';
import { SignInForm } from '@/features/identity/SignInForm';
import { needsVisitor } from './guards';
import { publicRoute } from './public';
import { wayBack } from './wayBack';

export const signInRoute = createRoute({
  getParentRoute: () => publicRoute,
  path: '/sign-in',
  validateSearch: wayBack,
  beforeLoad: needsVisitor,
  component: SignInPage,
});

function SignInPage() {
  const { from } = signInRoute.useSearch();
  const router = useRouter();
  return <SignInForm onDone={() => router.history.replace(from ?? '/')} />;
}
