// SPDX-License-Identifier: Apache-2.0
import { Button, Center } from '@mantine/core';
import { EmptyState } from './EmptyState';
import { useTexts } from './i18n';
import { AlertIcon } from './icons';
import { wordTexts } from './words';

/** Stands where a page crashed, so that there is never a blank screen. */
export function CrashPage() {
  const words = useTexts(wordTexts);
  return (
    <Center mih="70vh">
      <EmptyState
        icon={<AlertIcon size={28} />}
        title={words.crashed}
        hint={words.crashedHint}
        action={<Button onClick={() => location.reload()}>{words.reload}</Button>}
      />
    </Center>
  );
}

/** Stands where there is no page. */
export function NotFoundPage() {
  const words = useTexts(wordTexts);
  return (
    <Center mih="70vh">
      <EmptyState
        icon={<AlertIcon size={28} />}
        title={words.notFound}
        hint={words.notFoundHint}
        action={
          <Button component="a" href="/">
            {words.home}
          </Button>
        }
      />
    </Center>
  );
}
