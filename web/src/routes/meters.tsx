// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const metersRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/meters',
  component: lazyRouteComponent(() => import('@/features/catalog/MetersPanel'), 'MetersPanel'),
});
