// SPDX-License-Identifier: Apache-2.0
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [react()],
  resolve: { tsconfigPaths: true },
  build: {
    // A data: URL would need a hole in the Content-Security-Policy.
    assetsInlineLimit: 0,
    // Whose code and fonts the bundle contains, and under which terms.
    license: { fileName: 'licenses.md' },
    modulePreload: { polyfill: false },
    target: 'es2023',
    // light-dark() must reach the browser as it is: Mantine sets the scheme on the root element.
    cssTarget: ['chrome125', 'firefox126', 'safari17.5'],
  },
  // nimbus/portal/pages.py replaces this word by a fresh nonce in each answer.
  html: { cspNonce: 'NIMBUS_CSP_NONCE' },
  server: {
    proxy: { '/api': 'http://127.0.0.1:8000' },
  },
});
