// Stand-ins for the two qMRML widgets of the panel (the others are Qt's and ctk's own), and what loads its .ui
// file. A vtkMRMLNode* here is the Python object of the node: PythonQt passes it on as it would the node.
#pragma once

#include <PythonQt.h>
#include <QUiLoader>
#include <QtWidgets>

#include "ctkCollapsibleButton.h"
#include "ctkPathLineEdit.h"
#include "ctkSliderWidget.h"

class vtkMRMLNode;
class vtkMRMLScene;

class qMRMLSortFilterProxyModel : public QObject
{
  Q_OBJECT
  Q_PROPERTY(QStringList hiddenNodeIDs READ hiddenNodeIDs WRITE setHiddenNodeIDs)
public:
  explicit qMRMLSortFilterProxyModel(QObject* parent = nullptr) : QObject(parent) {}
  QStringList hiddenNodeIDs() const { return m_hidden; }
  void setHiddenNodeIDs(const QStringList& ids)
  {
    if (ids != m_hidden)
    {
      m_hidden = ids;
      emit changed();
    }
  }
signals:
  void changed();

private:
  QStringList m_hidden;
};

class qMRMLWidget : public QWidget
{
  Q_OBJECT
public:
  explicit qMRMLWidget(QWidget* parent = nullptr) : QWidget(parent) {}
public slots:
  void setMRMLScene(vtkMRMLScene* scene) { emit mrmlSceneChanged(scene); }
signals:
  void mrmlSceneChanged(vtkMRMLScene*);
};

// Lists what the Python function `_nodes` gives as (ID, name), and finds nodes by `_node(ID)`.
class qMRMLNodeComboBox : public QWidget
{
  Q_OBJECT
  Q_PROPERTY(QString currentNodeID READ currentNodeID WRITE setCurrentNodeID)
  Q_PROPERTY(QStringList nodeTypes MEMBER m_types)
  Q_PROPERTY(bool showChildNodeTypes MEMBER m_children)
  Q_PROPERTY(bool addEnabled MEMBER m_add)
  Q_PROPERTY(bool removeEnabled MEMBER m_remove)
  Q_PROPERTY(bool noneEnabled MEMBER m_none)
public:
  explicit qMRMLNodeComboBox(QWidget* parent = nullptr);
  Q_INVOKABLE vtkMRMLNode* currentNode() const;
  Q_INVOKABLE qMRMLSortFilterProxyModel* sortFilterProxyModel() const { return m_filter; }
  QString currentNodeID() const { return m_current; }
public slots:
  void setMRMLScene(vtkMRMLScene*) { refresh(); }
  void setCurrentNode(vtkMRMLNode* node);
  void setCurrentNodeID(const QString& id);
  void refresh();
signals:
  void currentNodeChanged(vtkMRMLNode*);
  void currentNodeChanged(bool);

private:
  void tell();
  QComboBox* m_box;
  qMRMLSortFilterProxyModel* m_filter;
  QString m_current;
  QStringList m_types;
  bool m_children = false, m_add = false, m_remove = false, m_none = false;
};

class UiLoader : public QObject
{
  Q_OBJECT
public slots:
  QWidget* load(const QString& path);
};

class Constructors : public QObject
{
  Q_OBJECT
public slots:
  qMRMLWidget* new_qMRMLWidget(QWidget* parent = nullptr) { return new qMRMLWidget(parent); }
};
