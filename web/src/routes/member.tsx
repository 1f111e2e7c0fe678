// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent, redirect } from '@tanstack/react-router';
import { PageLoading } from '@/ui/Loading';
import { isBeingSetUp, needsSession } from './guards';
import { rootRoute } from './root';

export const memberRoute = createRoute({
  getParentRoute: () => rootRoute,
  id: 'member',
  beforeLoad: async ({ location }) => {
    if (isBeingSetUp(await needsSession(location.href))) throw redirect({ to: '/onboarding' });
  },
  pendingComponent: PageLoading,
  component: lazyRouteComponent(() => import('@/areas/consumer/ConsumerLayout'), 'ConsumerLayout'),
});
