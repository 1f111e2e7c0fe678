// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const subscriptionsRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/subscriptions',
  component: lazyRouteComponent(
    () => import('@/features/subscriptions/SubscriptionsPanel'),
    'SubscriptionsPanel',
  ),
});
