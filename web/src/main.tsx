// SPDX-License-Identifier: Apache-2.0
import '@fontsource-variable/inter';
import '@mantine/core/styles.css';
import { MantineProvider } from '@mantine/core';
import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { RouterProvider } from '@tanstack/react-router';
import { setNonce } from 'get-nonce';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import type { Problem } from '@/api/problem';
import { restoreSession, subscribe } from '@/api/session';
import { createPortalRouter } from '@/routes/router';
import { LocaleProvider } from '@/ui/i18n';
import { contrast, theme } from '@/ui/theme';

declare module '@tanstack/react-query' {
  interface Register {
    defaultError: Problem;
  }
}

// Styles made at run time carry this page's nonce: Mantine's, and those of its scroll lock.
const meta = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]');
const nonce = meta?.nonce ?? '';
setNonce(nonce);

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // A refusal stays one; only a lost connection or a part that is down is worth another try.
      retry: (failures, error) => failures < 2 && (error.status === 0 || error.status === 503),
      staleTime: 10_000,
    },
  },
});
const router = createPortalRouter();

subscribe(async () => {
  if (await restoreSession().catch(() => null)) return;
  queries.clear();
  await router.invalidate();
});

const root = document.getElementById('root');
if (!root) throw new Error('index.html has no #root');
createRoot(root).render(
  <StrictMode>
    <MantineProvider
      theme={theme}
      cssVariablesResolver={contrast}
      defaultColorScheme="auto"
      getStyleNonce={() => nonce}
    >
      <LocaleProvider>
        <QueryClientProvider client={queries}>
          <RouterProvider router={router} />
        </QueryClientProvider>
      </LocaleProvider>
    </MantineProvider>
  </StrictMode>,
);
