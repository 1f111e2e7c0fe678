// SPDX-License-Identifier: Apache-2.0
import { Alert, Button, Text } from '@mantine/core';
import { useTexts } from './i18n';
import { AlertIcon } from './icons';
import classes from './page.module.css';
import { describe, problemTexts, type Refused } from './problems';
import { wordTexts } from './words';

type Props = { error: Refused | null; message?: string | undefined; retry?: () => void };

/** Says what went wrong, aloud as well: the region is there before the message comes. */
export function ProblemAlert({ error, message, retry }: Props) {
  const own = useTexts(problemTexts);
  const words = useTexts(wordTexts);
  return (
    <div role="alert" className={classes.region}>
      {error && (
        <Alert color="red" icon={<AlertIcon />} variant="light" role="presentation">
          <Text size="sm">{message ?? describe(error, own)}</Text>
          {error.requestId && (
            <Text size="xs" c="dimmed" mt={4}>
              {own.reference(error.requestId)}
            </Text>
          )}
          {retry && (
            <Button size="xs" variant="default" mt="sm" onClick={retry}>
              {words.retry}
            </Button>
          )}
        </Alert>
      )}
    </div>
  );
}
