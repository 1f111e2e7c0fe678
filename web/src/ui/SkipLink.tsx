// SPDX-License-Identifier: Apache-2.0
import { useTexts } from './i18n';
import classes from './page.module.css';
import { wordTexts } from './words';

/** The first stop of the Tab key: past the navigation, to `id`. */
export function SkipLink({ id = 'content' }: { id?: string }) {
  const words = useTexts(wordTexts);
  return (
    <a className={classes.skip} href={`#${id}`}>
      {words.skip}
    </a>
  );
}
