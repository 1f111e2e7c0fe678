// SPDX-License-Identifier: Apache-2.0
import { createRoute, useNavigate } from '@tanstack/react-router';
import { AnalyticsPanel } from '@/features/usage/AnalyticsPanel';
import { memberRoute } from './member';
import { rangeSearch } from './usageSearch';

export const analyticsRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/analytics',
  validateSearch: rangeSearch,
  component: AnalyticsPage,
});

function AnalyticsPage() {
  const navigate = useNavigate();
  return (
    <AnalyticsPanel
      search={analyticsRoute.useSearch()}
      onSearch={(search) => navigate({ to: '/analytics', search, replace: true })}
    />
  );
}
