// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent, useNavigate } from '@tanstack/react-router';
import { needsSession } from './guards';
import { rootRoute } from './root';

const Onboarding = lazyRouteComponent(() => import('@/areas/consumer/Onboarding'), 'Onboarding');

export const onboardingRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: '/onboarding',
  beforeLoad: async ({ location }) => {
    await needsSession(location.href);
  },
  component: OnboardingPage,
});

function OnboardingPage() {
  const navigate = useNavigate();
  return <Onboarding onDone={() => navigate({ to: '/' })} />;
}
