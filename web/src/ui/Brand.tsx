// SPDX-License-Identifier: Apache-2.0
import { Group, Text } from '@mantine/core';

/** The mark and the name. */
export function Brand() {
  return (
    <Group gap={10} wrap="nowrap">
      <svg width="30" height="30" viewBox="0 0 32 32" aria-hidden="true">
        <rect width="32" height="32" rx="8" fill="#2f54d4" />
        <path
          d="M10.5 21.5a4.6 4.6 0 0 1-.4-9.2 6.6 6.6 0 0 1 12.5 1.6 3.9 3.9 0 0 1-.4 7.6z"
          fill="#fff"
        />
        <path d="M12 25h3M17.5 25h4" stroke="#a9c1ff" strokeWidth="2" strokeLinecap="round" />
      </svg>
      <Text fw={700} size="lg" lh={1} component="span">
        Nimbus
      </Text>
    </Group>
  );
}
