// SPDX-License-Identifier: Apache-2.0
import { createRoute, lazyRouteComponent } from '@tanstack/react-router';
import { memberRoute } from './member';

type Search = { invoice?: string };

export const invoicesRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/invoices',
  validateSearch: (search: Record<string, unknown>): Search =>
    typeof search.invoice === 'string' ? { invoice: search.invoice } : {},
  component: lazyRouteComponent(() => import('@/features/billing/BillingPage'), 'BillingPage'),
});
