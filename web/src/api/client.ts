// SPDX-License-Identifier: Apache-2.0
import createClient from 'openapi-fetch';
import type { components, paths } from './schema';
import { accessToken, closeSession } from './session';

export type Schemas = components['schemas'];

/** The API, typed by its own document, with the session's token on every call. */
export const api = createClient<paths>();

api.use({
  async onRequest({ request }) {
    const token = await accessToken();
    if (token) request.headers.set('Authorization', `Bearer ${token}`);
    return request;
  },
  onResponse({ request, response }) {
    if (response.status === 401 && request.headers.has('Authorization')) closeSession();
  },
});

/** A name for one intended write: the same one again gets the first answer. */
export function idempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
