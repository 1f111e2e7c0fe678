// SPDX-License-Identifier: Apache-2.0
import { createRoute, useNavigate } from '@tanstack/react-router';
import { LogsPanel } from '@/features/usage/LogsPanel';
import { memberRoute } from './member';
import { logSearch } from './usageSearch';

export const logsRoute = createRoute({
  getParentRoute: () => memberRoute,
  path: '/logs',
  validateSearch: logSearch,
  component: LogsPage,
});

function LogsPage() {
  const navigate = useNavigate();
  return (
    <LogsPanel
      search={logsRoute.useSearch()}
      onSearch={(search) => navigate({ to: '/logs', search, replace: true })}
    />
  );
}
