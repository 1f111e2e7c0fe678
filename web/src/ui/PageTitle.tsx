// SPDX-License-Identifier: Apache-2.0
import { Title, type TitleOrder } from '@mantine/core';
import { useEffect, useRef } from 'react';
import classes from './page.module.css';

let visited = false;

/** The page's one heading. After a navigation it takes the focus, so that it is read aloud. */
export function PageTitle({
  children,
  size = 'h2',
}: {
  children: string;
  size?: `h${TitleOrder}`;
}) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${children} · Nimbus`;
    if (visited) heading.current?.focus({ preventScroll: true });
    visited = true;
  }, [children]);
  return (
    <Title order={1} size={size} ref={heading} tabIndex={-1} className={classes.title}>
      {children}
    </Title>
  );
}
