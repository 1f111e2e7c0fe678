// SPDX-License-Identifier: Apache-2.0
import { createRootRoute } from '@tanstack/react-router';
import { CrashPage, NotFoundPage } from '@/ui/Fallback';
import { PageLoading } from '@/ui/Loading';

export const rootRoute = createRootRoute({
  errorComponent: CrashPage,
  notFoundComponent: NotFoundPage,
  pendingComponent: PageLoading,
});
