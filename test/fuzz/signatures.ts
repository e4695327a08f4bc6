/**
 * What the public API and the addon take, read from the source by TypeScript's parser: a new method, option or native
 * function is fuzzed with near-valid arguments from the day it is written, without a list kept by hand.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';

export type Shape =
  | { readonly is: 'number' | 'bigint' | 'boolean' | 'string' | 'function' | 'any' | 'undefined' | 'null' }
  | { readonly is: 'literal'; readonly value: string | number | boolean }
  | { readonly is: 'union'; readonly of: readonly Shape[] }
  | { readonly is: 'array'; readonly of: Shape }
  | { readonly is: 'object'; readonly fields: readonly Field[] }
  | { readonly is: 'named'; readonly name: string; readonly of: readonly Shape[] }
  /** An object as a table of lib/abi encodes it. */
  | { readonly is: 'struct'; readonly name: string };

export interface Field {
  readonly name: string;
  readonly optional: boolean;
  readonly rest?: boolean;
  readonly shape: Shape;
}

export interface Signatures {
  /** By class (or interface of the addon), then by method; setters as `set name`, constructors as `new`. */
  readonly methods: Record<string, Record<string, readonly Field[]>>;
  readonly functions: Record<string, readonly Field[]>;
  /** What a class has at run time and its users do not: protected, private and internal members. */
  readonly hidden: Record<string, readonly string[]>;
  /** Interfaces and type aliases. */
  readonly types: Record<string, { readonly bases: readonly string[]; readonly shape: Shape }>;
}

const ANY: Shape = { is: 'any' };

/** Reads every file below `root`/lib. */
export function readSignatures(root: string): Signatures {
  const found: Signatures = { methods: {}, functions: {}, hidden: {}, types: {} };
  for (const name of readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue;
    const text = readFileSync(join(root, 'lib', name), 'utf8');
    const file = ts.createSourceFile(name, text, ts.ScriptTarget.ES2023, false);
    file.statements.forEach((statement) => read(found, statement));
  }
  return found;
}

function read(found: Signatures, node: ts.Statement): void {
  if (ts.isFunctionDeclaration(node) && node.name !== undefined) {
    found.functions[node.name.text] = parametersOf(node);
  } else if (ts.isTypeAliasDeclaration(node)) {
    found.types[node.name.text] = { bases: [], shape: shapeOf(node.type) };
  } else if (ts.isInterfaceDeclaration(node)) {
    const bases = basesOf(node);
    found.types[node.name.text] = { bases, shape: { is: 'object', fields: fieldsOf(node.members) } };
    const methods = methodsOf(found, node.name.text);
    for (const member of node.members)
      if (ts.isMethodSignature(member)) methods[nameOf(member.name)] = parametersOf(member);
  } else if (ts.isClassDeclaration(node) && node.name !== undefined) {
    const methods = methodsOf(found, node.name.text);
    found.hidden[node.name.text] = node.members.filter(isHidden).map((member) => nameOf(member.name!));
    for (const member of node.members) {
      if (ts.isMethodDeclaration(member)) methods[nameOf(member.name)] = parametersOf(member);
      if (ts.isSetAccessorDeclaration(member)) methods[`set ${nameOf(member.name)}`] = parametersOf(member);
      if (ts.isConstructorDeclaration(member)) methods['new'] = parametersOf(member);
    }
  }
}

/** A class and an interface may have one name. */
function methodsOf(found: Signatures, name: string): Record<string, readonly Field[]> {
  return (found.methods[name] ??= Object.create(null) as Record<string, readonly Field[]>);
}

function isHidden(member: ts.ClassElement): boolean {
  if (member.name === undefined) return false;
  const flags = ts.getCombinedModifierFlags(member);
  if ((flags & (ts.ModifierFlags.Protected | ts.ModifierFlags.Private)) !== 0) return true;
  const { jsDoc = [] } = member as { jsDoc?: readonly ts.JSDoc[] };
  return jsDoc.some(({ tags = [] }) => [...tags].some(({ tagName }) => tagName.text === 'internal'));
}

function basesOf(node: ts.InterfaceDeclaration): string[] {
  return (node.heritageClauses ?? []).flatMap((clause) => clause.types.map(({ expression }) => textOf(expression)));
}

function nameOf(name: ts.PropertyName | ts.BindingName): string {
  return 'text' in name ? name.text : 'unnamed';
}

function textOf(node: ts.Node): string {
  if (ts.isIdentifier(node)) return node.text;
  return ts.isQualifiedName(node) ? node.right.text : 'unnamed';
}

function parametersOf(node: ts.SignatureDeclarationBase): Field[] {
  return node.parameters.map((parameter) => ({
    name: nameOf(parameter.name),
    optional: parameter.questionToken !== undefined || parameter.initializer !== undefined,
    rest: parameter.dotDotDotToken !== undefined,
    shape: parameter.type === undefined ? ANY : shapeOf(parameter.type),
  }));
}

function fieldsOf(members: ts.NodeArray<ts.TypeElement>): Field[] {
  return members
    .filter((member) => ts.isPropertySignature(member))
    .map((member) => ({
      name: nameOf(member.name),
      optional: member.questionToken !== undefined,
      shape: member.type === undefined ? ANY : shapeOf(member.type),
    }));
}

function shapeOf(type: ts.TypeNode): Shape {
  switch (type.kind) {
    case ts.SyntaxKind.NumberKeyword:
      return { is: 'number' };
    case ts.SyntaxKind.BigIntKeyword:
      return { is: 'bigint' };
    case ts.SyntaxKind.BooleanKeyword:
      return { is: 'boolean' };
    case ts.SyntaxKind.StringKeyword:
      return { is: 'string' };
    case ts.SyntaxKind.UndefinedKeyword:
      return { is: 'undefined' };
    default:
  }
  if (ts.isParenthesizedTypeNode(type)) return shapeOf(type.type);
  if (ts.isFunctionTypeNode(type)) return { is: 'function' };
  if (ts.isUnionTypeNode(type)) return { is: 'union', of: type.types.map(shapeOf) };
  if (ts.isIntersectionTypeNode(type)) return intersection(type.types.map(shapeOf));
  if (ts.isArrayTypeNode(type)) return { is: 'array', of: shapeOf(type.elementType) };
  if (ts.isTypeOperatorNode(type)) return shapeOf(type.type);
  if (ts.isTypeLiteralNode(type)) return { is: 'object', fields: fieldsOf(type.members) };
  if (ts.isLiteralTypeNode(type)) return literal(type.literal);
  if (ts.isTypeQueryNode(type)) return { is: 'struct', name: textOf(type.exprName) };
  if (ts.isTypeReferenceNode(type)) {
    return { is: 'named', name: textOf(type.typeName), of: (type.typeArguments ?? []).map(shapeOf) };
  }
  return ANY;
}

function intersection(parts: readonly Shape[]): Shape {
  return { is: 'object', fields: parts.flatMap((part) => (part.is === 'object' ? part.fields : [])) };
}

function literal(node: ts.LiteralTypeNode['literal']): Shape {
  if (node.kind === ts.SyntaxKind.NullKeyword) return { is: 'null' };
  if (node.kind === ts.SyntaxKind.TrueKeyword) return { is: 'literal', value: true };
  if (node.kind === ts.SyntaxKind.FalseKeyword) return { is: 'literal', value: false };
  if (ts.isNumericLiteral(node)) return { is: 'literal', value: Number(node.text) };
  return ts.isStringLiteral(node) ? { is: 'literal', value: node.text } : ANY;
}
