// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

type Search = { consumer?: string };

export const consumersRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/consumers',
  validateSearch: (search: Record<string, unknown>): Search =>
    typeof search.consumer === 'string' ? { consumer: search.consumer } : {},
  component: lazyRouteComponent(
    () => import('@/features/consumers/ConsumersPage'),
    'ConsumersPage',
  ),
});
