// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Textarea, VisuallyHidden } from '@mantine/core';
import { useClipboard } from '@mantine/hooks';
import { type ReactNode, useRef } from 'react';
import { useTexts } from './i18n';
import { CheckIcon, CopyIcon } from './icons';
import classes from './page.module.css';
import { wordTexts } from './words';

type Props = { label: string; value: string; children?: ReactNode };

/** A value to take along. Where the clipboard is closed to us, it is at least selected. */
export function CopyField({ label, value, children }: Props) {
  const words = useTexts(wordTexts);
  const clipboard = useClipboard({ timeout: 4000 });
  const field = useRef<HTMLTextAreaElement>(null);
  const copy = () => {
    field.current?.select();
    clipboard.copy(value);
  };
  return (
    <>
      <Textarea
        ref={field}
        label={label}
        value={value}
        readOnly
        autosize
        classNames={{ input: classes.secret ?? '' }}
        onFocus={(event) => event.currentTarget.select()}
      />
      <Group mt="xs" gap="sm">
        <Button
          leftSection={clipboard.copied ? <CheckIcon size={18} /> : <CopyIcon size={18} />}
          onClick={copy}
        >
          {clipboard.copied ? words.copied : words.copy}
        </Button>
        <VisuallyHidden component="span" aria-live="polite">
          {clipboard.copied ? words.copied : ''}
        </VisuallyHidden>
        {children}
      </Group>
    </>
  );
}
