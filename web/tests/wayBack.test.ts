// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { wayBack } from '../src/routes/wayBack.ts';

test('after signing in one comes back to a page of ours', () => {
  assert.deepEqual(wayBack({ from: '/keys' }), { from: '/keys' });
  assert.deepEqual(wayBack({ from: '/invitation?token=a' }), { from: '/invitation?token=a' });
});

test('an address of another host is no way back', () => {
  for (const from of [
    '//evil.example',
    '/\\evil.example',
    'https://evil.example',
    'javascript:x',
  ]) {
    assert.deepEqual(wayBack({ from }), {});
  }
  assert.deepEqual(wayBack({}), {});
});
