// SPDX-License-Identifier: Apache-2.0
import { ActionIcon } from '@mantine/core';
import type { ReactNode } from 'react';
import { signOut } from '@/api/session';
import { Brand } from '@/ui/Brand';
import { useTexts } from '@/ui/i18n';
import { SignOutIcon } from '@/ui/icons';
import { Preferences } from '@/ui/Preferences';
import { SkipLink } from '@/ui/SkipLink';
import classes from './onboarding.module.css';
import { navigationTexts } from './texts';

/** Around the set-up: nothing but the step at hand and the way out. */
export function OnboardingLayout({ children }: { children: ReactNode }) {
  const own = useTexts(navigationTexts);
  return (
    <>
      <SkipLink />
      <header className={classes.header}>
        <Brand />
        <div className={classes.tools}>
          <Preferences />
          <ActionIcon
            variant="default"
            size="lg"
            aria-label={own.signOut}
            title={own.signOut}
            onClick={() => signOut()}
          >
            <SignOutIcon />
          </ActionIcon>
        </div>
      </header>
      <main id="content" tabIndex={-1} className={classes.main}>
        {children}
      </main>
    </>
  );
}
