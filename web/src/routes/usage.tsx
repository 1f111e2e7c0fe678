// SPDX-License-Identifier: Apache-2.0
import { createRoute, useNavigate } from '@tanstack/react-router';
import { UsagePanel } from '@/features/usage/UsagePanel';
import { memberRoute } from './member';
import { rangeSearch } from './usageSearch';

export const usageRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/usage',
  validateSearch: rangeSearch,
  component: UsagePage,
});

function UsagePage() {
  const navigate = useNavigate();
  return (
    <UsagePanel
      search={usageRoute.useSearch()}
      onSearch={(search) => navigate({ to: '/usage', search, replace: true })}
    />
  );
}
