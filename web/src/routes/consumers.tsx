// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const consumersRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/consumers',
  component: lazyRouteComponent(
    () => import('@/features/consumers/ConsumersPanel'),
    'ConsumersPanel',
  ),
});
