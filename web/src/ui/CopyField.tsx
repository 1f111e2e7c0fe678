// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Textarea } from '@mantine/core';
import { useClipboard } from '@mantine/hooks';
import { useRef } from 'react';
import { useTexts } from './i18n';
import { CheckIcon, CopyIcon } from './icons';
import classes from './page.module.css';
import { wordTexts } from './words';

/** A value to take along. Where the clipboard is closed to us, it is at least selected. */
export function CopyField({ label, value }: { label: string; value: string }) {
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
          variant="light"
          leftSection={clipboard.copied ? <CheckIcon size={18} /> : <CopyIcon size={18} />}
          onClick={copy}
        >
          {clipboard.copied ? words.copied : words.copy}
        </Button>
        <span aria-live="polite" className="mantine-visually-hidden">
          {clipboard.copied ? words.copied : ''}
        </span>
      </Group>
    </>
  );
}
