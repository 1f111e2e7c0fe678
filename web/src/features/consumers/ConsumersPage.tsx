// SPDX-License-Identifier: Apache-2.0
import { useSearch } from '@tanstack/react-router';
import { ConsumerPage } from './ConsumerPage';
import { ConsumersPanel } from './ConsumersPanel';

/** The subscribers, or the one that the address names. */
export function ConsumersPage() {
  const { consumer } = useSearch({ strict: false });
  return consumer ? <ConsumerPage id={consumer} /> : <ConsumersPanel />;
}
