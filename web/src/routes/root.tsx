// SPDX-License-Identifier: Apache-2.0
import { createRootRoute } from '@tanstack/react-router';
import { NotFoundPage } from '@/ui/Fallback';
import { PageLoading } from '@/ui/Loading';

export const rootRoute = createRootRoute({
  notFoundComponent: NotFoundPage,
  pendingComponent: PageLoading,
});
