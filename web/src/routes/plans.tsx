// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const plansRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/plans',
  component: lazyRouteComponent(() => import('@/features/catalog/PlansPanel'), 'PlansPanel'),
});
