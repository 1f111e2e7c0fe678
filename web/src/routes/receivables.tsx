// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const receivablesRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/receivables',
  component: lazyRouteComponent(
    () => import('@/features/billing/ReceivablesPanel'),
    'ReceivablesPanel',
  ),
});
