// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

export const invoicesRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/invoices',
  component: lazyRouteComponent(() => import('@/features/billing/InvoicesPanel'), 'InvoicesPanel'),
});
